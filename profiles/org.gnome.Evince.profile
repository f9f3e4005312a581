[Application]
name=org.gnome.Evince
command=evince;
[Context]
sockets=wayland;fallback-x11;
devices=dri;
