# The worker and the command `tidewise`. Every dependency has a wheel: no compiler, no build tools.
FROM python:3.11-slim

# tzdata comes as a dependency (the wheel): quiet hours need the users' time zones.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --system --uid 10001 --create-home tidewise

WORKDIR /app
COPY pyproject.toml README.md ./
COPY stream stream
COPY state state
COPY producers producers
RUN pip install .

USER 10001
STOPSIGNAL SIGTERM
CMD ["tidewise", "worker"]
