# Strandline with an agent of yours: mount or copy it to /app/agent.py. Data is kept under /data.
#
# BASE_IMAGE is a Debian (or Ubuntu) with Python 3.11 or newer and its venv module, for whatever processor.
# Layers go from what changes least to what changes most: an image of yours (`FROM` this one, packages, then agent.py)
# rebuilds only the last of them. docs/container.md says how to run it locked down.
ARG BASE_IMAGE=python:3.13-slim

# -- everything that Strandline is built on, in a layer that changes only with its versions --------------
FROM ${BASE_IMAGE} AS dependencies
RUN python3 -m venv /opt/venv
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY constraints.txt ./
COPY tools/pins.py tools/
RUN --mount=type=secret,id=pip_ca,required=false \
    if [ -s /run/secrets/pip_ca ]; then export PIP_CERT=/run/secrets/pip_ca; fi; \
    /opt/venv/bin/python tools/pins.py show run > requirements.txt \
    && /opt/venv/bin/pip install --require-hashes --requirement requirements.txt \
    # Compiled modules make the start fast, also under a root that is read-only; nobody waits for pip's or for tests.
    && find /opt/venv \( -path '*/site-packages/pip/*' -name __pycache__ -o -path '*/site-packages/*/tests' \) \
       -prune -exec rm -rf {} +

# -- Strandline itself, as a wheel ------------------------------------------------------------------------
FROM dependencies AS wheel
RUN --mount=type=secret,id=pip_ca,required=false \
    if [ -s /run/secrets/pip_ca ]; then export PIP_CERT=/run/secrets/pip_ca; fi; \
    /opt/venv/bin/python tools/pins.py show build > requirements.txt \
    && /opt/venv/bin/pip install --require-hashes --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/venv/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# -- the image ----------------------------------------------------------------------------------------------
FROM ${BASE_IMAGE}
ARG UID=10001
RUN groupadd --gid ${UID} strandline \
    && useradd --uid ${UID} --gid ${UID} --home-dir /data/workspace --no-create-home \
       --shell /usr/sbin/nologin strandline \
    && install --directory --owner=${UID} --group=${UID} /data \
    # What is mounted at /root/.aws for its owner is in that one's reach, when the container runs as that one.
    && chmod 0711 /root
COPY --from=dependencies /opt/venv /opt/venv
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    # (pip compiles what it installs all the same, and not itself again)
    PYTHONDONTWRITEBYTECODE=1 \
    /opt/venv/bin/pip install --no-index --no-deps --no-cache-dir --disable-pip-version-check /wheels/*.whl
COPY container /opt/strandline

# Settings are here and not in the entry's command line, so that commands that are typed in a container have the same.
# No file of settings is read unless somebody names one: agents can write into the folder that they work in.
ENV PATH=/opt/strandline/bin:/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PORT=8080 \
    STRANDLINE_HOST=0.0.0.0 \
    STRANDLINE_JOURNAL=sqlite:/data/journal.db \
    STRANDLINE_LOG_FORMAT=json \
    STRANDLINE_CONFIG=none \
    STRANDLINE_ALLOW_ANONYMOUS=1
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
# Until it has been ready once it is starting, however long it waits for a journal or migrates one.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5m --start-interval=1s --retries=3 \
    CMD ["/opt/venv/bin/python", "-I", "-S", "/opt/strandline/healthcheck.py"]
# -I and -S: what runs as root is the entry and the standard library, whatever the environment says.
ENTRYPOINT ["/opt/venv/bin/python", "-I", "-S", "/opt/strandline/entry.py"]

# `make image` adds which version and revision it is, of when, and where its source is.
LABEL org.opencontainers.image.title="Strandline" \
      org.opencontainers.image.description="A stateful agent behind HTTP whose requests wait their turn" \
      org.opencontainers.image.vendor="The Strandline authors" \
      org.opencontainers.image.licenses="Apache-2.0"
