"""The churn API as a service: `tabserve serve examples.churn.service:service`."""

import tabserve
from examples.churn.request import ChurnRequest

service = tabserve.Service("models/churn", request=ChurnRequest)
