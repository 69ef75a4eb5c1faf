from tests.helpers.pair_files import own_cache  # noqa: F401  autouse: every test here has it
