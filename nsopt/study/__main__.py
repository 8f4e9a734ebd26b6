"""The main job: `python -m nsopt.study` is `nsopt study`."""

import sys

from nsopt.cli.app import main

if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
