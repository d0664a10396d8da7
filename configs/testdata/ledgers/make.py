import openpyxl, datetime
wb=openpyxl.Workbook(); ws=wb.active; ws.title="设备台账"
ws.append(["×× 机械有限公司 生产设备台账"]); ws.merge_cells("A1:K1")
ws.append(["资产编号","设备名称","车间","工序","关键设备","关键工序","数字化设备","制造商","型号","出厂编号","采集设备","购置日期","原值（元）"])
rows=[
 ["SB-001","冲床 1#","冲压车间","冲压","是","是","是","扬力","JH21-160","20230118","press-1",datetime.date(2023,1,18),356000.5],
 ["SB-002","机器人 7#","焊装车间","焊接","√","√",None,"ABB","IRB 6700",None,"robot-7",datetime.date(2022,5,2),512000],
 ["SB-003","普通车床","机加车间","车削","否","否","否","沈阳机床","CA6140",None,None,None,None],
 [1004,"铣床","机加车间","铣削",None,True,"是","北京一机","XK714",123456789012,None,None,None],
 ["SB-005","焊接站","焊装车间","焊接","是","是","是",None,None,None,"robot-7、press-1",None,None],
]
for r in rows: ws.append(r)
hid=wb.create_sheet("x",0); hid.sheet_state="hidden"; hid.append(["asset","name"]); wb.active=1
wb.save("testdata/ledgers/factory.xlsx")
wb=openpyxl.Workbook(); ws=wb.active
ws.append(["name","address","type","scale","unit","description"])
ws.append(["temp","holding:100","int16",0.1,"℃","温度"]); ws.append(["count",40001,"uint16",None,None,None]); ws.append([]); ws.append(["run","coil:3",None,None,None,"运行"])
wb.save("testdata/tags/book.xlsx")
wb=openpyxl.Workbook(); ws=wb.active
ws.append(["name","address","scale"]); ws.append(["a",datetime.date(2026,1,2),"0,5"]); ws.append([None,"holding:1"])
wb.save("testdata/tags/book-problems.xlsx")
