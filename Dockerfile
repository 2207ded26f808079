# One image for every service of docker-compose.yml. The first stage builds; the second has no compiler and no package
# cache, and its user can write to none of it.
FROM python:3.13-slim AS build
RUN python -m venv /opt/callwatch
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements.lock ./
RUN /opt/callwatch/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md ./
COPY api_client api_client/
COPY cli cli/
COPY config config/
COPY gateway gateway/
COPY simulator simulator/
COPY worker worker/
RUN /opt/callwatch/bin/pip install --no-deps --no-build-isolation .

FROM python:3.13-slim
COPY --from=build /opt/callwatch /opt/callwatch
ENV PATH=/opt/callwatch/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
# The only writable folder, for the volume of Flower's data.
RUN install -d -o 10001 -g 10001 /var/lib/callwatch
USER 10001:10001
WORKDIR /opt/callwatch
CMD ["callwatch", "--help"]
