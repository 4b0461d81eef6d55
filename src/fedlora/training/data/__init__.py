# SPDX-License-Identifier: Apache-2.0
"""Examples and who owns which: tables, labelled texts and dialogues, splits over clients. No token ids."""
