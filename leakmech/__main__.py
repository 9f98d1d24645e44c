"""``python -m leakmech``."""

from leakmech.cli import main

if __name__ == "__main__":
    main()
