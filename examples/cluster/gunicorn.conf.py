"""The settings of gunicorn, which reads this file by itself in the folder where it is started."""

threads = 100  # every open page needs one
graceful_timeout = 2  # seconds; open pages do not disconnect by themselves
loglevel = "warning"
control_socket_disable = True  # not used here, and the four would share one name
