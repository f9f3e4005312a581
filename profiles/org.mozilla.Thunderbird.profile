# Its name on the bus is how a second start finds the first.
[Application]
name=org.mozilla.Thunderbird
command=thunderbird;
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
filesystems=~/.thunderbird:create;
features=userns;
[Session Bus Policy]
org.freedesktop.Notifications=talk
org.mozilla.thunderbird.*=own
