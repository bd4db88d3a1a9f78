"""A stand-in for vLLM's server, so that `align serve` can be run where vLLM is not installed. It is no engine."""
