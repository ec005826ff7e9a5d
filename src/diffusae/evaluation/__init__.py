"""Metrics: tensors in, a typed result out, with n, an interval and baselines. One metric a file."""
