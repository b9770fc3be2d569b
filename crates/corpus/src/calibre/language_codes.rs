//! Codes of languages: Calibre keeps the three letters of ISO 639-3, books and people mostly write two.

/// A language code in two letters where ISO 639-1 has one (`eng` -> `en`), in lower case; any other as it is.
#[must_use]
pub fn two_letters(code: &str) -> String {
    let code = code.trim().to_lowercase();
    let known = CODES.split_ascii_whitespace().find_map(|pair| {
        let (three, two) = pair.split_once('=')?;
        (three == code).then(|| two.to_owned())
    });
    known.unwrap_or(code)
}

/// ISO 639-2/T and 639-3 codes that have an ISO 639-1 code, and the bibliographic twins (`fre`, `ger`).
const CODES: &str = "
aar=aa abk=ab ave=ae afr=af aka=ak amh=am arg=an ara=ar asm=as ava=av aym=ay aze=az bak=ba bel=be bul=bg bih=bh
bis=bi bam=bm ben=bn bod=bo tib=bo bre=br bos=bs cat=ca che=ce cha=ch cos=co cre=cr ces=cs cze=cs chu=cu chv=cv
cym=cy wel=cy dan=da deu=de ger=de div=dv dzo=dz ewe=ee ell=el gre=el eng=en epo=eo spa=es est=et eus=eu baq=eu
fas=fa per=fa pes=fa ful=ff fin=fi fij=fj fao=fo fra=fr fre=fr fry=fy gle=ga gla=gd glg=gl grn=gn guj=gu glv=gv
hau=ha heb=he hin=hi hmo=ho hrv=hr hat=ht hun=hu hye=hy arm=hy her=hz ina=ia ind=id ile=ie ibo=ig iii=ii ipk=ik
ido=io isl=is ice=is ita=it iku=iu jpn=ja jav=jv kat=ka geo=ka kon=kg kik=ki kua=kj kaz=kk kal=kl khm=km kan=kn
kor=ko kau=kr kas=ks kur=ku kom=kv cor=kw kir=ky lat=la ltz=lb lug=lg lim=li lin=ln lao=lo lit=lt lub=lu lav=lv
mlg=mg mah=mh mri=mi mao=mi mkd=mk mac=mk mal=ml mon=mn mar=mr msa=ms may=ms zsm=ms mlt=mt mya=my bur=my nau=na
nob=nb nde=nd nep=ne ndo=ng nld=nl dut=nl nno=nn nor=no nbl=nr nav=nv nya=ny oci=oc oji=oj orm=om ori=or oss=os
pan=pa pli=pi pol=pl pus=ps por=pt que=qu roh=rm run=rn ron=ro rum=ro rus=ru kin=rw san=sa srd=sc snd=sd sme=se
sag=sg sin=si slk=sk slo=sk slv=sl smo=sm sna=sn som=so sqi=sq alb=sq srp=sr ssw=ss sot=st sun=su swe=sv swa=sw
tam=ta tel=te tgk=tg tha=th tir=ti tuk=tk tgl=tl tsn=tn ton=to tur=tr tso=ts tat=tt twi=tw tah=ty uig=ug ukr=uk
urd=ur uzb=uz ven=ve vie=vi vol=vo wln=wa wol=wo xho=xh yid=yi yor=yo zha=za zho=zh chi=zh cmn=zh zul=zu
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_letters_become_two() {
        for (given, short) in
            [("eng", "en"), ("HRV", "hr"), ("ger", "de"), ("spa", "es"), ("en-GB", "en-gb"), ("und", "und")]
        {
            assert_eq!(two_letters(given), short);
        }
    }
}
