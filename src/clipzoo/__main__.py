"""``python -m clipzoo``: the same as the command ``clipzoo``."""

from clipzoo.cli import main

if __name__ == "__main__":
    main()
