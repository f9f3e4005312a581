# Its own file dialog shows an empty home; pictures come by "open with".
[Application]
name=org.gnome.eog
command=eog;
[Context]
sockets=wayland;fallback-x11;
devices=dri;
