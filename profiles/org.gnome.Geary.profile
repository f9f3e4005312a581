# Without the keyring, where it keeps its passwords, it does not start.
[Application]
name=org.gnome.Geary
command=geary;
[Context]
shared=network;
sockets=wayland;fallback-x11;
devices=dri;
[Session Bus Policy]
org.freedesktop.Notifications=talk
org.freedesktop.secrets=talk
