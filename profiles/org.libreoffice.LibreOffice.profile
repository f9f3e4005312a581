# Its own file dialog shows an empty home; documents come by "open with".
[Application]
name=org.libreoffice.LibreOffice
command=libreoffice;soffice;
[Context]
shared=network;
sockets=wayland;fallback-x11;cups;
devices=dri;
