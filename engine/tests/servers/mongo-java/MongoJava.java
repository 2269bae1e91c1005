// A MongoDB-compatible server for the tests, in memory: mongo-java-server, which says that it is
// as new as the driver wants it.

import java.net.InetSocketAddress;
import java.util.List;

import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;

public final class MongoJava {
    private static final MongoVersion RECENT = new MongoVersion() {
        @Override
        public List<Integer> getVersionArray() {
            return List.of(5, 0, 0);
        }

        @Override
        public int getWireVersion() {
            return 13;
        }
    };

    public static void main(String[] args) {
        MemoryBackend backend = new MemoryBackend();
        backend.version(RECENT);
        new MongoServer(backend).bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])));
    }
}
