# Windlass itself in a container: the binary, and a shell and certificates for what it builds.
# Build the binary first: cargo build --release
# The same binary and base make the same image each time with `podman build --timestamp 0`.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
COPY target/release/windlass /usr/local/bin/windlass
RUN mkdir /data && chown 1000:1000 /data
USER 1000:1000
ENV WINDLASS_DATA_DIR=/data HOME=/data
VOLUME /data
EXPOSE 3010 3080
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 CMD ["windlass", "smoke"]
ENTRYPOINT ["windlass"]
CMD ["serve", "--json"]
