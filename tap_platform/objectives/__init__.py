"""Losses and prompt sampling: functions of tensors."""
