use tokio::net::TcpStream;
use wtx::{
    collection::Vector,
    web_socket::{OpCode, WebSocketAcceptor, WebSocketPayloadOrigin},
};

/// Frames are assembled to messages by `read_frame`; the masking stays, as everywhere else here.
async fn echo(stream: TcpStream) {
    let acceptor = WebSocketAcceptor::default().no_masking(false);
    let accepted: wtx::Result<_> = acceptor.accept(stream).await;
    let Ok(mut socket) = accepted else { return };
    let (mut common, mut reader, mut writer) = socket.split_mut();
    let mut buffer = Vector::new();
    loop {
        let read = reader.read_frame(&mut buffer, &mut common, WebSocketPayloadOrigin::Adaptive).await;
        let Ok(mut frame) = read else { return };
        match frame.op_code() {
            OpCode::Close => return,
            OpCode::Text | OpCode::Binary => {
                if writer.write_frame(&mut common, &mut frame).await.is_err() {
                    return;
                }
            }
            _ => {}
        }
    }
}

fn main() {
    peers::serve(echo)
}
