[Application]
name=org.libreoffice.LibreOffice
command=libreoffice;soffice;
[Context]
shared=network;
sockets=wayland;fallback-x11;cups;
devices=dri;
