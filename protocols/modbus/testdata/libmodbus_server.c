/* A Modbus TCP server on libmodbus (Debian's libmodbus-dev).
 *
 * Usage: libmodbus_server PORT. It serves one client at a time, with 1000
 * addresses in each table. Lines on standard input such as
 * "holding 10 1 2 3" set values; each is answered by "ok". It ends with
 * standard input.
 */
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

static void set(modbus_mapping_t *m, const char *table, int addr, int value) {
	if (addr < 0 || addr >= 1000) return;
	if (strcmp(table, "coil") == 0) m->tab_bits[addr] = value;
	if (strcmp(table, "discrete") == 0) m->tab_input_bits[addr] = value;
	if (strcmp(table, "holding") == 0) m->tab_registers[addr] = value;
	if (strcmp(table, "input") == 0) m->tab_input_registers[addr] = value;
}

static void obey(modbus_mapping_t *m) {
	char line[4096];
	if (fgets(line, sizeof line, stdin) == NULL) exit(0);
	char *table = strtok(line, " \n"), *word = strtok(NULL, " \n");
	if (table == NULL || word == NULL) exit(1);
	for (int addr = atoi(word); (word = strtok(NULL, " \n")) != NULL; addr++)
		set(m, table, addr, atoi(word));
	puts("ok");
}

int main(int argc, char **argv) {
	if (argc != 2) return 2;
	setvbuf(stdin, NULL, _IONBF, 0); /* select sees what stdio would keep */
	setvbuf(stdout, NULL, _IOLBF, 0);
	modbus_t *ctx = modbus_new_tcp("127.0.0.1", atoi(argv[1]));
	modbus_mapping_t *m = modbus_mapping_new(1000, 1000, 1000, 1000);
	int listener = modbus_tcp_listen(ctx, 4), client = -1;
	if (m == NULL || listener < 0) {
		perror("libmodbus_server");
		return 1;
	}
	for (;;) {
		fd_set set;
		FD_ZERO(&set);
		FD_SET(0, &set);
		FD_SET(client < 0 ? listener : client, &set);
		if (select((client > listener ? client : listener) + 1, &set, NULL, NULL, NULL) < 0) return 1;
		if (FD_ISSET(0, &set)) obey(m);
		if (client < 0 && FD_ISSET(listener, &set)) {
			int l = listener; /* modbus_tcp_accept overwrites it */
			client = modbus_tcp_accept(ctx, &l);
		} else if (client >= 0 && FD_ISSET(client, &set)) {
			uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
			int n = modbus_receive(ctx, query);
			if (n > 0) {
				modbus_reply(ctx, query, n, m);
			} else if (n < 0) {
				close(client);
				client = -1;
			}
		}
	}
}
