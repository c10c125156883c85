"""The verb that tries a webhook."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "--webhook-from",
    "variable",
    default="TAP_ALERTS_WEBHOOK",
    show_default=True,
    metavar="VARIABLE",
    help="Name of the environment variable that holds the webhook's address.",
)
def alert(variable: str) -> None:
    """Send a message to the webhook of alerts, to see whether it arrives."""
    import time

    from tap_platform.alerts.message import Alert, payload
    from tap_platform.alerts.webhook import Webhook, WebhookError
    from tap_platform.runs.files import utc_now

    webhook = Webhook.of_environment(variable)
    if webhook is None:
        raise ValueError(f"the variable {variable} is not set: export the webhook's address in it")
    text = "This is a trial: alerts of runs come to this place."
    trial = Alert(kind="recovery", run="trial", project="tap", text=text, time=utc_now())
    try:
        webhook.post(payload(trial), time.sleep)
    except WebhookError as error:
        raise ValueError(str(error)) from None
    click.echo("sent")
