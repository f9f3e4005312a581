# What is dropped on it does not arrive: it asks for paths, not for documents.
[Application]
name=org.gnome.Evince
command=evince;
[Context]
sockets=wayland;fallback-x11;
devices=dri;
