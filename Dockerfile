# A small image with nothing but the binary. Build: docker build -t kith .
# Run, with member.toml and the secret in ./member, readable by the user 7400:
# docker run -v ./member:/etc/kith:ro -v kith-data:/var/lib/kith -p 7400-7402:7400-7402 kith
FROM rust:1-slim-trixie AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
# The dependencies by themselves, so that a change of kith builds kith only.
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && awk '/^\[/ { skip = /^\[\[(test|bench)\]\]/ } !skip' Cargo.toml > reduced && mv reduced Cargo.toml \
    && cargo build --release --locked --bin kith
COPY . .
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin kith

FROM debian:trixie-slim
RUN useradd --system --uid 7400 --no-create-home kith \
    && install -d -o kith -g kith -m 700 /var/lib/kith
COPY --from=build /build/target/release/kith /usr/local/bin/kith
USER kith
# Inside a container the machine's address is not known: tell each member KITH_ADVERTISE_PEERS=HOST:7400, or
# write it into its file.
ENV KITH_DATA_DIR=/var/lib/kith \
    KITH_LISTEN_PEERS=0.0.0.0:7400 \
    KITH_LISTEN_HTTP=0.0.0.0:7401 \
    KITH_LISTEN_RESP=0.0.0.0:7402
EXPOSE 7400 7401 7402
VOLUME /var/lib/kith
# Ready, or still on the way to it: a member that waits for its cluster is not to be restarted.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["kith", "health", "--live"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["kith"]
CMD ["serve", "--config", "/etc/kith/member.toml"]
