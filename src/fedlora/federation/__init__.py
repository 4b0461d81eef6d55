# SPDX-License-Identifier: Apache-2.0
"""The round: the loop at the server, the driver at the client, and the seam between them.

This floor is handed a trainer and never imports one.
"""
