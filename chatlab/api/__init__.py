"""HTTP: the REST routes, the OpenAI-compatible ones and the service routes, as routers for any FastAPI app."""

from chatlab.api.routes import install

__all__ = ["install"]
