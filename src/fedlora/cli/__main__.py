# SPDX-License-Identifier: Apache-2.0
"""`python -m fedlora.cli`, for checkouts without the command."""

from fedlora.cli import main

main()
