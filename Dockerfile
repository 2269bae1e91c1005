# The engine alone. docker build -t vigie . ; docker run -p 1883:1883 -p 8080:8080 -v vigie:/data vigie
#
# Beyond loopback the engine asks for users (or a client CA) and for a token: see docker-compose.yml.

FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p engine

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates tzdata \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --home-dir /data --create-home vigie
COPY --from=build /src/target/release/engine /usr/local/bin/engine
USER vigie
WORKDIR /data
VOLUME /data
EXPOSE 1883 8080
ENTRYPOINT ["engine"]
CMD ["run", "--data-dir", "/data"]
