"""The API: `tabserve serve service:service`."""

import tabserve
from delivery_request import DeliveryRequest

service = tabserve.Service("models/delivery", request=DeliveryRequest)
