/* What SetupAPI sees in INF files: dump.exe LIST OUT. LIST names files, one a line; OUT gets lines of fields between
 * tabs: "F path", "S section", "L key fields...", each text in hexadecimal UTF-16; "E code" where a file is refused. */
#include <windows.h>
#include <setupapi.h>
#include <stdio.h>

typedef BOOL(WINAPI *enum_sections)(HINF, UINT, PWSTR, DWORD, DWORD *);

static FILE *out;

static void text(const WCHAR *text) {
    fputc('\t', out);
    for (; *text; text++) fprintf(out, "%04x", (unsigned)*text);
}

int main(int argc, char **argv) {
    static WCHAR buffer[70000], name[1000];
    char path[2000];
    enum_sections next = (enum_sections)(void *)GetProcAddress(GetModuleHandleA("setupapi.dll"), "SetupEnumInfSectionsW");
    FILE *list = fopen(argv[1], "r");
    out = fopen(argv[2], "wb");
    if (argc < 3 || !list || !out || !next) return 1;
    while (fgets(path, sizeof path, list)) {
        path[strcspn(path, "\r\n")] = 0;
        fprintf(out, "F\t%s\n", path);
        HINF inf = SetupOpenInfFileA(path, NULL, INF_STYLE_WIN4, NULL);
        if (inf == INVALID_HANDLE_VALUE) {
            fprintf(out, "E\t%lx\n", GetLastError());
            continue;
        }
        for (UINT i = 0; next(inf, i, name, 1000, NULL); i++) {
            INFCONTEXT line;
            fputc('S', out);
            text(name);
            fputc('\n', out);
            if (!SetupFindFirstLineW(inf, name, NULL, &line)) continue;
            do {
                DWORD count = SetupGetFieldCount(&line);
                fputc('L', out);
                for (DWORD field = 0; field <= count; field++) {
                    if (SetupGetStringFieldW(&line, field, buffer, 70000, NULL)) text(buffer);
                    else fprintf(out, "\t-");
                }
                fputc('\n', out);
            } while (SetupFindNextLine(&line, &line));
        }
        SetupCloseInfFile(inf);
    }
    fclose(out);
    return 0;
}
