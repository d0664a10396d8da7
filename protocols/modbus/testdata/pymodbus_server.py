"""A Modbus server on pymodbus 3.0 (Debian's python3-pymodbus).

Usage: pymodbus_server.py PORT, or pymodbus_server.py /dev/TTY BAUD N|E|O UNIT.
The first serves unit 1 by Modbus TCP, the second the given one by RTU. Each
table has 1000 addresses. Lines on standard input such as "holding 10 1 2 3"
set values; each is answered by "ok". It ends with standard input.
"""
import os
import sys
import threading

from pymodbus.datastore import (ModbusSequentialDataBlock, ModbusServerContext,
                                ModbusSlaveContext)
from pymodbus.device import ModbusDeviceIdentification
from pymodbus.server import StartSerialServer, StartTcpServer
from pymodbus.transaction import ModbusRtuFramer

FUNCTION = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}


def obey(unit):
    for line in sys.stdin:
        table, addr, *values = line.split()
        unit.setValues(FUNCTION[table], int(addr), [int(v) for v in values])
        print("ok", flush=True)
    os._exit(0)


def block():
    return ModbusSequentialDataBlock(0, [0] * 1000)


identity = ModbusDeviceIdentification(info_name={
    "VendorName": "Pymodbus Works", "ProductCode": "PM-3", "MajorMinorRevision": "3.0",
    "VendorUrl": "https://example.com/" + "long" * 40, "ProductName": "Simulated PLC", "ModelName": "PM 3000"})
unit = ModbusSlaveContext(di=block(), co=block(), hr=block(), ir=block(), zero_mode=True)
threading.Thread(target=obey, args=(unit,), daemon=True).start()
if len(sys.argv) == 2:
    StartTcpServer(context=ModbusServerContext(slaves={1: unit}, single=False), identity=identity,
                   address=("127.0.0.1", int(sys.argv[1])), allow_reuse_address=True)
else:
    port, baud, parity, number = sys.argv[1:]
    StartSerialServer(context=ModbusServerContext(slaves={int(number): unit}, single=False),
                      identity=identity, framer=ModbusRtuFramer, port=port, baudrate=int(baud), parity=parity,
                      ignore_missing_slaves=True)
