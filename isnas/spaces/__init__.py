"""Search spaces: what can be searched, and architectures as data."""
