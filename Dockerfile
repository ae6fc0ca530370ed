# A small image with nothing but the binary: docker build -t kith .
#
# examples/compose runs a cluster of it. By itself, with member.toml and the secret in ./member, readable by the user
# 7400, and in the file addresses that fit a container:
#
#     [listen]                              # 127.0.0.1 would be heard by nobody outside
#     peers = "0.0.0.0:7400"
#     http = "0.0.0.0:7401"
#     resp = "0.0.0.0:7402"
#     [advertise]
#     peers = "HOST:7400"                   # where other members reach this one
#
#     docker run -v ./member:/etc/kith:ro -v kith-data:/var/lib/kith -p 7400-7402:7400-7402 kith

# Where these can't be had: the same from another registry, or what integration/containers/ makes on this machine.
ARG RUST_IMAGE=rust:1.95-slim-trixie
ARG BASE_IMAGE=debian:trixie-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /build
# Backtraces keep the names of functions; line numbers would make the image several times as large.
ENV CARGO_PROFILE_RELEASE_DEBUG=false \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo
# The dependencies by themselves, so that a change of kith builds kith only. Cargo wants the file of every target that
# the manifest names, so tests and benches are left out of it.
COPY Cargo.toml Cargo.lock ./
RUN awk '/^\[/ { skip = /^\[\[/ && !/^\[\[bin\]\]/ } !skip' Cargo.toml > reduced && mv reduced Cargo.toml \
    && mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && cargo build --release --locked --bin kith
COPY src src
# The files are older than what was just built of the empty ones.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin kith

FROM ${BASE_IMAGE}
# The user has no name: nothing but this number is needed.
RUN install -d -o 7400 -g 7400 -m 700 /var/lib/kith
COPY --from=build /build/target/release/kith /usr/local/bin/kith
USER 7400:7400
# The one variable that is set here: the environment wins over the file, in which everything else can be said.
ENV KITH_DATA_DIR=/var/lib/kith
VOLUME /var/lib/kith
EXPOSE 7400 7401 7402
# Ready, or still on the way to it: a member that waits for its cluster is not to be restarted. Where HTTP has another
# port or TLS, KITH_ADDRESS says so.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["kith", "health", "--live"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["kith"]
CMD ["serve", "--config", "/etc/kith/member.toml"]
