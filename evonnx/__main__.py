"""`python -m evonnx`: the command line without the script."""

from evonnx.cli import main

if __name__ == "__main__":
    main()
