"""Search spaces: what can be searched, and architectures as data."""

from .registry import SPACES, from_json, get, published

__all__ = ["SPACES", "from_json", "get", "published"]
