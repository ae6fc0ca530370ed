#!/usr/bin/env bash
# Makes what stands in for the image of Prometheus' makers, where no image registry can be reached: prometheus-image.sh IMAGE
# It runs the distribution's Prometheus as theirs does: as nobody, with its configuration and its data at the same places.
# Of the configuration in the distribution's package nothing is left.
set -euo pipefail
cd "$(dirname "$0")"

[ $# -eq 1 ] || { echo "usage: prometheus-image.sh IMAGE" >&2; exit 2; }
image="$1"
./base-image.sh "$image-base" coreutils prometheus
docker build --quiet --tag "$image" - >/dev/null <<DOCKERFILE
FROM $image-base
RUN rm -rf /etc/prometheus && install -d -o 65534 -g 65534 /prometheus
USER 65534:65534
WORKDIR /prometheus
VOLUME /prometheus
EXPOSE 9090
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
DOCKERFILE
