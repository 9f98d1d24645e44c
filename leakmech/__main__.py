"""``python -m leakmech``."""

from leakmech.cli.app import main

if __name__ == "__main__":
    main()
