from tests.worker import broker, start_worker  # noqa: F401
