# SPDX-License-Identifier: Apache-2.0
"""A federation across sites: a site's process, the server's remote transport, and what carries bytes between them."""
