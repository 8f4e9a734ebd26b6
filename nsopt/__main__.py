"""Run the `nsopt` command with `python -m nsopt`."""

from nsopt.cli.app import main

if __name__ == "__main__":
    main()
