"""The users' studio."""

from creativeflow.services.aigeneration.web.studio import history, home, reference_images, request

ROUTERS = (home.router, request.router, history.router, reference_images.router)
