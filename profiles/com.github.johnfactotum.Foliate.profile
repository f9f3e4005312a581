[Application]
name=com.github.johnfactotum.Foliate
command=foliate;com.github.johnfactotum.Foliate;
[Context]
sockets=wayland;fallback-x11;
devices=dri;
