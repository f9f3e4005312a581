[Application]
name=org.gnome.eog
command=eog;
[Context]
sockets=wayland;fallback-x11;
devices=dri;
