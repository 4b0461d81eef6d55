# SPDX-License-Identifier: Apache-2.0
"""From examples to token ids and loss masks: templates, cutting, files of token ids that are read as needed."""
