from tests.gpu.device import IS_THERE

collect_ignore_glob = [] if IS_THERE else ["test_*.py"]
