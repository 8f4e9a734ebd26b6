"""`python -m nsopt` is `nsopt`."""

from nsopt.cli.app import main

if __name__ == "__main__":
    main()
