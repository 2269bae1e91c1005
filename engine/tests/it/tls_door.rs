//! Doors in front of a server: what takes connections, and TLS where the server speaks none.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use super::certificates::Identity;

/// Takes encrypted connections and passes them on.
pub(crate) struct TlsDoor {
    pub(crate) addr: SocketAddr,
    _runtime: Runtime,
}

impl TlsDoor {
    pub(crate) fn start(upstream: SocketAddr, identity: &Identity) -> Self {
        let chain = CertificateDer::pem_file_iter(&identity.cert).unwrap();
        let chain = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (addr, runtime) = open(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                // Who does not trust it hangs up.
                let Ok(mut inside) = acceptor.accept(stream).await else {
                    return;
                };
                if let Ok(mut server) = TcpStream::connect(upstream).await {
                    let _ended = tokio::io::copy_bidirectional(&mut inside, &mut server).await;
                }
            }
        });
        Self {
            addr,
            _runtime: runtime,
        }
    }
}

/// Takes connections on a port of its own as long as the runtime is kept, each in the hands of `guard`.
pub(crate) fn open<F>(guard: impl Fn(TcpStream) -> F + Send + 'static) -> (SocketAddr, Runtime)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let addr = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(guard(stream));
        }
    });
    (addr, runtime)
}
