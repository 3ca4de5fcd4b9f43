# TabServe with scikit-learn and Flask; the models stay outside.
#
#   docker build -t tabserve .
#   mkdir keys && tabserve keys add alice --keys keys/keys.json
#   docker run -p 8000:8000 --user "$(id -u):$(id -g)" -v ./models:/models:ro -v ./keys:/keys:ro \
#       -e TABSERVE_KEYS=/keys/keys.json tabserve
#
# The server can be reached from other machines, so without keys it stops: TABSERVE_KEYS is a keys
# file, or holds NAME:HASH,NAME:HASH itself. It is not set here: what is in an image is in its
# registry too. Mount the folder and not the file: tabserve keys replaces the file, and a mount of
# it would go on showing the old one, with keys that were revoked. Only the file's owner can read
# it, hence --user.
#
# An image with its models in it, and with code of your own such as a request class:
#
#   FROM tabserve
#   COPY models /models
#   COPY my_request.py /app/
#   CMD ["serve", "/models", "--request", "my_request:MyRequest"]

FROM python:3.12-slim AS builder
WORKDIR /build
RUN python -m venv /opt/tabserve
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/tabserve/bin/pip install --no-cache-dir ".[sklearn,flask]"

# The same tag as above: the venv's python is a link to the image's.
FROM python:3.12-slim
# No apt-get: scikit-learn's wheels bring the OpenMP library (libgomp) that they need.
RUN groupadd --gid 10001 tabserve \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin tabserve
COPY --from=builder /opt/tabserve /opt/tabserve
ENV PATH=/opt/tabserve/bin:$PATH \
    TABSERVE_HOST=0.0.0.0
# Where tabserve.toml and modules of your own are looked for.
WORKDIR /app
# By number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 10001:10001
EXPOSE 8000
# The port comes from TABSERVE_PORT, so set it there and not by --port. An http_proxy of the
# container is none for its own address.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + (os.environ.get('TABSERVE_PORT') or '8000') + '/health', timeout=4)"]
ENTRYPOINT ["tabserve"]
CMD ["serve", "/models"]
