# SPDX-License-Identifier: Apache-2.0
"""`python -m fedlora`: the command line."""

from fedlora.cli import main

if __name__ == "__main__":
    main()
