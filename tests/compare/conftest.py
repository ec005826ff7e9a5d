"""These tests need the environment of `make setup-compare`; elsewhere they are not collected."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("sae_lens") and find_spec("sparsify") else ["test_*.py"]
