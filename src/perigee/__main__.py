"""`python -m perigee`: the same as the `perigee` command."""

from perigee._cli.main import main

if __name__ == "__main__":
    main()
