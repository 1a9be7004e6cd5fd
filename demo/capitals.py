"""Countries and their capitals."""

from __future__ import annotations

_TABLE = """
Albania Tirana|Algeria Algiers|Angola Luanda|Argentina Buenos_Aires|Armenia Yerevan|Australia Canberra|Austria Vienna
Azerbaijan Baku|Bahrain Manama|Bangladesh Dhaka|Belarus Minsk|Belgium Brussels|Bolivia Sucre|Botswana Gaborone
Brazil Brasília|Bulgaria Sofia|Cambodia Phnom_Penh|Cameroon Yaoundé|Canada Ottawa|Chad N'Djamena|Chile Santiago
China Beijing|Colombia Bogotá|Costa_Rica San_José|Croatia Zagreb|Cuba Havana|Cyprus Nicosia|Czechia Prague
Denmark Copenhagen|Ecuador Quito|Egypt Cairo|Estonia Tallinn|Ethiopia Addis_Ababa|Fiji Suva|Finland Helsinki|France Paris
Gabon Libreville|Georgia Tbilisi|Germany Berlin|Ghana Accra|Greece Athens|Haiti Port-au-Prince|Honduras Tegucigalpa
Hungary Budapest|Iceland Reykjavik|India New_Delhi|Indonesia Jakarta|Iran Tehran|Iraq Baghdad|Ireland Dublin|Italy Rome
Jamaica Kingston|Japan Tokyo|Jordan Amman|Kazakhstan Astana|Kenya Nairobi|Laos Vientiane|Latvia Riga|Lebanon Beirut
Libya Tripoli|Lithuania Vilnius|Madagascar Antananarivo|Malaysia Kuala_Lumpur|Mali Bamako|Malta Valletta|Mexico Mexico_City
Moldova Chișinău|Mongolia Ulaanbaatar|Montenegro Podgorica|Morocco Rabat|Mozambique Maputo|Namibia Windhoek|Nepal Kathmandu
Netherlands Amsterdam|New_Zealand Wellington|Nicaragua Managua|Nigeria Abuja|Norway Oslo|Oman Muscat|Pakistan Islamabad
Paraguay Asunción|Peru Lima|Philippines Manila|Poland Warsaw|Portugal Lisbon|Qatar Doha|Romania Bucharest|Russia Moscow
Rwanda Kigali|Saudi_Arabia Riyadh|Senegal Dakar|Serbia Belgrade|Slovakia Bratislava|Slovenia Ljubljana|Somalia Mogadishu
South_Korea Seoul|Spain Madrid|Sudan Khartoum|Sweden Stockholm|Switzerland Bern|Syria Damascus|Tanzania Dodoma
Thailand Bangkok|Tunisia Tunis|Turkey Ankara|Uganda Kampala|Ukraine Kyiv|United_Kingdom London|United_States Washington
Uruguay Montevideo|Uzbekistan Tashkent|Venezuela Caracas|Vietnam Hanoi|Yemen Sanaa|Zambia Lusaka|Zimbabwe Harare
"""


def _entries(table: str) -> dict[str, str]:
    """Return the pairs of a table; underscores stand for spaces within a name."""
    pairs = [entry.split(" ") for line in table.strip().splitlines() for entry in line.split("|")]
    return {country.replace("_", " "): city.replace("_", " ") for country, city in pairs}


CAPITALS = _entries(_TABLE)
